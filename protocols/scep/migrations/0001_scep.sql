-- Times are seconds since 1970 UTC.

-- Registration authority certificates; valid from the moment their certificate is issued.
CREATE TABLE scep_registrations (
    key_id TEXT PRIMARY KEY,
    issuer TEXT NOT NULL,
    kind TEXT NOT NULL,
    certificate TEXT NOT NULL REFERENCES certificates (id),
    not_after INTEGER NOT NULL
);
CREATE INDEX scep_registrations_by_issuer ON scep_registrations (issuer, not_after);

-- One row per transactionID and key, and for renewals per certificate that is renewed.
-- `certificate` is null while an approval is awaited; `delivered` 0 until whoever decided on the
-- challenge has agreed that the certificate is handed out.
CREATE TABLE scep_transactions (
    id TEXT PRIMARY KEY,
    label TEXT NOT NULL,
    transaction_id TEXT NOT NULL,
    spki_sha256 BLOB NOT NULL,
    renewal_of TEXT NOT NULL,
    signer_sha256 BLOB NOT NULL,
    content_sha256 BLOB NOT NULL,
    party TEXT NOT NULL,
    profile TEXT NOT NULL,
    address TEXT NOT NULL,
    csr BLOB NOT NULL,
    approval TEXT,
    certificate TEXT REFERENCES certificates (id),
    delivered INTEGER NOT NULL,
    created INTEGER NOT NULL,
    UNIQUE (label, transaction_id, spki_sha256, renewal_of)
);
CREATE INDEX scep_transactions_by_key ON scep_transactions (label, spki_sha256);
CREATE INDEX scep_transactions_by_content ON scep_transactions (label, content_sha256, created);
CREATE INDEX scep_transactions_by_age ON scep_transactions (created);
CREATE INDEX scep_transactions_by_certificate ON scep_transactions (certificate);
