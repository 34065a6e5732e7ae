-- Times are seconds since 1970 UTC. JSON columns hold what the wire layer parses and renders.

CREATE TABLE acme_external_accounts (
    id TEXT PRIMARY KEY,
    directory TEXT NOT NULL,
    uses_left INTEGER,
    expires INTEGER,
    profile TEXT,
    names TEXT NOT NULL,
    trusted INTEGER NOT NULL,
    note TEXT NOT NULL,
    created INTEGER NOT NULL,
    revoked INTEGER
);

CREATE TABLE acme_accounts (
    id TEXT PRIMARY KEY,
    directory TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('valid', 'deactivated', 'revoked')),
    jwk TEXT NOT NULL,
    thumbprint TEXT NOT NULL,
    contact TEXT NOT NULL,
    terms_agreed INTEGER NOT NULL,
    external_account TEXT REFERENCES acme_external_accounts (id),
    external_binding TEXT,
    names TEXT NOT NULL,
    address TEXT NOT NULL,
    created INTEGER NOT NULL,
    UNIQUE (directory, thumbprint)
);
CREATE INDEX acme_accounts_by_address ON acme_accounts (address, created);
CREATE INDEX acme_accounts_by_external ON acme_accounts (external_account);

CREATE TABLE acme_orders (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES acme_accounts (id),
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'ready', 'processing', 'valid', 'invalid')),
    identifiers TEXT NOT NULL,
    profile TEXT NOT NULL,
    profile_sent INTEGER NOT NULL,
    not_before INTEGER,
    not_after INTEGER,
    expires INTEGER NOT NULL,
    error TEXT,
    csr_sha256 BLOB,
    certificate TEXT REFERENCES certificates (id),
    replaces TEXT REFERENCES certificates (id),
    replaces_sent TEXT,
    created INTEGER NOT NULL
);
CREATE INDEX acme_orders_by_account ON acme_orders (account, created);
CREATE INDEX acme_orders_by_expiry ON acme_orders (expires);
CREATE INDEX acme_orders_processing ON acme_orders (status) WHERE status = 'processing';
CREATE UNIQUE INDEX acme_orders_by_certificate
    ON acme_orders (certificate) WHERE certificate IS NOT NULL;
CREATE UNIQUE INDEX acme_orders_replacing
    ON acme_orders (replaces) WHERE replaces IS NOT NULL AND status <> 'invalid';

CREATE TABLE acme_authorizations (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES acme_accounts (id),
    type TEXT NOT NULL,
    value TEXT NOT NULL,
    sent TEXT NOT NULL,
    wildcard INTEGER NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'valid', 'invalid', 'deactivated', 'revoked')),
    expires INTEGER NOT NULL,
    created INTEGER NOT NULL
);
CREATE INDEX acme_authorizations_by_name
    ON acme_authorizations (account, type, value, status, expires);
CREATE INDEX acme_authorizations_by_expiry ON acme_authorizations (expires);

CREATE TABLE acme_order_authorizations (
    order_id TEXT NOT NULL REFERENCES acme_orders (id),
    position INTEGER NOT NULL,
    authorization_id TEXT NOT NULL REFERENCES acme_authorizations (id),
    PRIMARY KEY (order_id, position)
);
CREATE INDEX acme_order_authorizations_back ON acme_order_authorizations (authorization_id);

CREATE TABLE acme_challenges (
    id TEXT PRIMARY KEY,
    authorization_id TEXT NOT NULL REFERENCES acme_authorizations (id),
    position INTEGER NOT NULL,
    type TEXT NOT NULL,
    token TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'processing', 'valid', 'invalid')),
    started INTEGER,
    validated INTEGER,
    error TEXT
);
CREATE INDEX acme_challenges_by_authorization ON acme_challenges (authorization_id, position);
CREATE INDEX acme_challenges_processing ON acme_challenges (started) WHERE status = 'processing';

CREATE TABLE acme_failures (
    account TEXT NOT NULL,
    value TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX acme_failures_by_name ON acme_failures (account, value, at);
CREATE INDEX acme_failures_by_time ON acme_failures (at);
