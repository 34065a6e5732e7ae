-- What clients got, as long as somebody asks for it: until `until`. `source`: the client it counts
-- for. `line`: the client that requests with this certificate count for; NULL: itself.
CREATE TABLE est_issued (
    certificate TEXT PRIMARY KEY REFERENCES certificates (id),
    source TEXT NOT NULL,
    line TEXT,
    at INTEGER NOT NULL,
    until INTEGER NOT NULL
);
CREATE INDEX est_issued_by_source ON est_issued (source, at);
CREATE INDEX est_issued_by_time ON est_issued (until);
