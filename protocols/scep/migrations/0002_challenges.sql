-- Times are seconds since 1970 UTC.

-- One-time challenges. `subjects` is a JSON list of patterns, empty: any subject.
CREATE TABLE scep_challenges (
    id TEXT PRIMARY KEY,
    label TEXT NOT NULL,
    secret_sha256 BLOB NOT NULL UNIQUE,
    profile TEXT,
    subjects TEXT NOT NULL,
    created INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    expires INTEGER NOT NULL,
    used INTEGER,
    certificate TEXT REFERENCES certificates (id),
    revoked INTEGER
);
CREATE INDEX scep_challenges_by_expiry ON scep_challenges (label, expires);

-- Who may ask for one-time challenges over HTTPS.
CREATE TABLE scep_logins (
    name TEXT PRIMARY KEY,
    label TEXT NOT NULL,
    secret_sha256 BLOB NOT NULL,
    created INTEGER NOT NULL,
    created_by TEXT NOT NULL
);

-- Certificates issued after Intune's consent. `awaiting`: Intune has not confirmed it yet, nobody
-- has the certificate; `confirmed`: handed out; `withdrawn`: revoked or never signed.
CREATE TABLE scep_intune (
    certificate TEXT PRIMARY KEY REFERENCES certificates (id),
    label TEXT NOT NULL,
    transaction_id TEXT NOT NULL,
    csr BLOB NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('awaiting', 'confirmed', 'withdrawn')),
    created INTEGER NOT NULL
);
CREATE INDEX scep_intune_awaiting ON scep_intune (created) WHERE status = 'awaiting';
