-- `bucket`: ten random bits of the serial number, by which shards are cut; 1024 for certificates of
-- authorities, -1 for what was revoked before there were buckets. `generation`: the issuer's at the
-- last change, which is what a delta list goes by.
ALTER TABLE revocations ADD COLUMN bucket INTEGER NOT NULL DEFAULT -1;
ALTER TABLE revocations ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
UPDATE revocations SET bucket = 1024 WHERE EXISTS (
    SELECT 1 FROM certificates WHERE certificates.issuer = revocations.issuer
    AND certificates.serial = revocations.serial AND certificates.profile = 'ca');
CREATE INDEX revocations_by_bucket ON revocations (issuer, bucket, not_after, entry);
CREATE INDEX revocations_by_generation ON revocations (issuer, generation);

-- Holds that were released, for delta lists; `entry` says removeFromCRL.
CREATE TABLE crl_removals (
    issuer TEXT NOT NULL REFERENCES authorities (name),
    serial BLOB NOT NULL,
    bucket INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    entry BLOB NOT NULL,
    PRIMARY KEY (issuer, serial)
);
CREATE INDEX crl_removals_by_generation ON crl_removals (issuer, generation);

-- The generation of the last change in each bucket: which lists are behind.
CREATE TABLE crl_changes (
    issuer TEXT NOT NULL REFERENCES authorities (name),
    bucket INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (issuer, bucket)
);
INSERT INTO crl_changes (issuer, bucket, generation)
    SELECT issuer, -1, generation FROM status_generations;

-- Which lists certificates point to, at which base URL, and until when one of those is valid.
-- `lists`: '' the complete one, 'user', 'ca', or the number of shards. `delta`: they name a delta.
CREATE TABLE crl_points (
    issuer TEXT NOT NULL REFERENCES authorities (name),
    lists TEXT NOT NULL,
    base TEXT NOT NULL,
    delta INTEGER NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (issuer, lists, base, delta)
);

-- Published lists. `form`: the extensions that depend on the configuration; `base`: BaseCRLNumber
-- of a delta; `anchor`: deltas may refer to it, so that it is remembered while it holds. `alerted`:
-- somebody was told that it lapses soon.
CREATE TABLE crl_lists (
    issuer TEXT NOT NULL REFERENCES authorities (name),
    scope TEXT NOT NULL,
    delta INTEGER NOT NULL,
    number INTEGER NOT NULL,
    base INTEGER,
    generation INTEGER NOT NULL,
    this_update INTEGER NOT NULL,
    next_update INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sha256 BLOB,
    form BLOB,
    anchor INTEGER NOT NULL,
    alerted INTEGER NOT NULL DEFAULT 0,
    body TEXT NOT NULL,
    PRIMARY KEY (issuer, scope, delta, number)
);

-- Their octets, in pieces; a list's are there before its row is.
CREATE TABLE crl_pages (
    body TEXT NOT NULL,
    page INTEGER NOT NULL,
    created INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (body, page)
);

INSERT INTO crl_lists (issuer, scope, delta, number, base, generation, this_update, next_update,
                       entries, size, sha256, form, anchor, body)
    SELECT issuer, '', 0, number, NULL, generation, this_update, next_update,
           entries, LENGTH(der), NULL, NULL, 0, issuer || '.' || CAST(number AS TEXT) FROM crls;
INSERT INTO crl_pages (body, page, created, content)
    SELECT issuer || '.' || CAST(number AS TEXT), 0, this_update, der FROM crls;
DROP TABLE crls;
