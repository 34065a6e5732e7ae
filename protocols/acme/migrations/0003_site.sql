-- What the limit of new accounts counts: the address, of IPv6 its /64.
ALTER TABLE acme_accounts ADD COLUMN site TEXT NOT NULL DEFAULT '';
UPDATE acme_accounts SET site = address;
DROP INDEX acme_accounts_by_address;
CREATE INDEX acme_accounts_by_site ON acme_accounts (site, created);
