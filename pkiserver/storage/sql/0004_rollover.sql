-- The authority after another one of the same line. It takes over from `activates` on (NULL: when
-- an operator says so); until then it is published, so that trust in it can spread.
CREATE TABLE successions (
    predecessor TEXT PRIMARY KEY REFERENCES authorities (name),
    successor TEXT NOT NULL UNIQUE REFERENCES authorities (name),
    created INTEGER NOT NULL,
    activates INTEGER
);

-- Authorities retired for good: the key is destroyed, the last list stays.
CREATE TABLE closures (
    authority TEXT PRIMARY KEY REFERENCES authorities (name),
    closed INTEGER NOT NULL
);
