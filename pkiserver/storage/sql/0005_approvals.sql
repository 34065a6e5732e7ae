-- Requests under profiles that need a second person. `names` is JSON; `csr` what the requester sent.
-- `expires`: until then a pending one may be decided, an approved one used.
CREATE TABLE approvals (
    id TEXT PRIMARY KEY,
    requester TEXT NOT NULL,
    reference TEXT NOT NULL,
    profile TEXT NOT NULL,
    csr_sha256 BLOB NOT NULL,
    csr BLOB NOT NULL,
    key_kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    names TEXT NOT NULL,
    address TEXT,
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'approved', 'rejected', 'used', 'expired')),
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    decided INTEGER,
    decided_by TEXT,
    why TEXT,
    certificate TEXT REFERENCES certificates (id)
);
CREATE UNIQUE INDEX approvals_live
    ON approvals (requester, reference, profile, csr_sha256) WHERE status <> 'expired';
CREATE INDEX approvals_by_status ON approvals (status, expires);
CREATE INDEX approvals_by_reference ON approvals (reference);
CREATE INDEX approvals_by_certificate ON approvals (certificate) WHERE certificate IS NOT NULL;
