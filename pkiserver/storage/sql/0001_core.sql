-- Times are seconds since 1970 UTC. Serials are big-endian bytes without leading zeros.

CREATE TABLE authorities (
    name TEXT PRIMARY KEY,
    parent TEXT REFERENCES authorities (name),
    certificate BLOB,
    csr BLOB,
    chain BLOB NOT NULL,
    key_id TEXT NOT NULL UNIQUE,
    spki_sha256 BLOB NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'active', 'retired')),
    created INTEGER NOT NULL,
    generation INTEGER NOT NULL
);
-- `chain`: concatenated DER of the certificates above it that are not ours (an outside root last).
-- `csr`: what an outside CA was asked to certify. `generation`: the highest one of all rows grows
-- with every change to the tree.

-- Other chains for the same name and key: a cross certificate and what is above it, up to its root.
CREATE TABLE cross_chains (
    authority TEXT NOT NULL REFERENCES authorities (name),
    sha256 BLOB NOT NULL,
    chain BLOB NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (authority, sha256)
);

CREATE TABLE certificates (
    id TEXT PRIMARY KEY,
    issuer TEXT NOT NULL REFERENCES authorities (name),
    serial BLOB NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('signing', 'issued', 'abandoned')),
    profile TEXT NOT NULL,
    requester TEXT NOT NULL,
    subject TEXT NOT NULL,
    spki_sha256 BLOB NOT NULL,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    created INTEGER NOT NULL,
    tbs BLOB NOT NULL,
    signature_algorithm BLOB NOT NULL,
    der BLOB,
    revoked_at INTEGER,
    reason TEXT,
    UNIQUE (issuer, serial)
);
CREATE INDEX certificates_by_expiry ON certificates (not_after);
CREATE INDEX certificates_by_key ON certificates (spki_sha256);
CREATE INDEX certificates_by_serial ON certificates (serial);
CREATE INDEX certificates_unfinished ON certificates (created) WHERE status = 'signing';

CREATE TABLE certificate_names (
    certificate TEXT NOT NULL REFERENCES certificates (id),
    type TEXT NOT NULL,
    value TEXT NOT NULL,
    reversed TEXT NOT NULL,
    PRIMARY KEY (certificate, type, value)
);
CREATE INDEX certificate_names_by_value ON certificate_names (type, value);
CREATE INDEX certificate_names_by_suffix ON certificate_names (reversed);

-- A row while a certificate is revoked or on hold; removed only when a hold is released.
CREATE TABLE revocations (
    issuer TEXT NOT NULL REFERENCES authorities (name),
    serial BLOB NOT NULL,
    revoked_at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    invalidity_date INTEGER,
    not_after INTEGER NOT NULL,
    entry BLOB NOT NULL,
    PRIMARY KEY (issuer, serial)
);

-- Every change that a relying party can see moves the generation of its issuer forward.
CREATE TABLE status_generations (
    issuer TEXT PRIMARY KEY REFERENCES authorities (name),
    generation INTEGER NOT NULL
);

CREATE TABLE crls (
    issuer TEXT NOT NULL REFERENCES authorities (name),
    number INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    this_update INTEGER NOT NULL,
    next_update INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    der BLOB NOT NULL,
    PRIMARY KEY (issuer, number)
);

CREATE TABLE responders (
    key_id TEXT PRIMARY KEY,
    issuer TEXT NOT NULL REFERENCES authorities (name),
    certificate BLOB NOT NULL,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL
);
CREATE INDEX responders_by_issuer ON responders (issuer, not_after);

CREATE TABLE blocked_keys (
    spki_sha256 BLOB PRIMARY KEY,
    why TEXT NOT NULL,
    added INTEGER NOT NULL
);

CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,
    previous BLOB NOT NULL,
    hash BLOB NOT NULL
);
CREATE INDEX audit_by_object ON audit (object);

CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until INTEGER NOT NULL
);

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    secret_sha256 BLOB NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    expires INTEGER,
    revoked INTEGER
);
