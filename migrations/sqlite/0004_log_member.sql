-- Which child of the instance wrote a line: 0 the main child, else the number of a client session's own child.
ALTER TABLE logs ADD COLUMN member INTEGER NOT NULL DEFAULT 0;
