-- A row while a key is being made, for an authority or a responder: its file may exist, what it is
-- for does not yet. `begun` 0: it is being removed.
ALTER TABLE responder_drafts RENAME TO key_drafts;
