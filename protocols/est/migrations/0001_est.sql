-- Times are seconds since 1970 UTC. `names` are JSON: what the user may be certified for.

CREATE TABLE est_users (
    id TEXT PRIMARY KEY,
    label TEXT NOT NULL,
    name TEXT NOT NULL,
    password TEXT NOT NULL,
    names TEXT NOT NULL,
    created INTEGER NOT NULL,
    UNIQUE (label, name)
);

-- Failed logins, by "address:..." and "user:...", until nobody counts them any more.
CREATE TABLE est_failures (
    source TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX est_failures_by_source ON est_failures (source, at);
CREATE INDEX est_failures_by_time ON est_failures (at);

-- The newest certificate for each request of each identity: a client that lost the answer asks again.
CREATE TABLE est_enrollments (
    label TEXT NOT NULL,
    requester TEXT NOT NULL,
    csr_sha256 BLOB NOT NULL,
    certificate TEXT NOT NULL REFERENCES certificates (id),
    created INTEGER NOT NULL,
    PRIMARY KEY (label, requester, csr_sha256)
);
CREATE INDEX est_enrollments_by_time ON est_enrollments (created);
