-- What devices got, or filed for approval, as long as it counts: until `until`. `device` is a digest
-- of the subject and the names that were certified.
CREATE TABLE scep_issued (
    enrolment TEXT PRIMARY KEY,
    label TEXT NOT NULL,
    device BLOB NOT NULL,
    at INTEGER NOT NULL,
    until INTEGER NOT NULL
);
CREATE INDEX scep_issued_by_device ON scep_issued (label, device, at);
-- It was for the same count, by what was asked for.
DROP INDEX scep_transactions_by_content;
