-- The core's id of the approval a processing order waits for, or was issued by.
ALTER TABLE acme_orders ADD COLUMN approval TEXT;
