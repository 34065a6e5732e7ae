-- A row while a responder is being made: its key may exist, its certificate does not yet.
CREATE TABLE responder_drafts (
    key_id TEXT PRIMARY KEY,
    begun INTEGER NOT NULL
);
