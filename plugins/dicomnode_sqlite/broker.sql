CREATE TABLE topic (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last INTEGER NOT NULL, -- the highest position that was ever deleted: none is given twice
    sure INTEGER NOT NULL DEFAULT 0 -- what was published up to here was delivered: what it tells of was done
);
CREATE TABLE subscriber (
    id INTEGER PRIMARY KEY,
    topic INTEGER NOT NULL REFERENCES topic,
    name TEXT NOT NULL,
    since INTEGER NOT NULL, -- the group gets what has a higher position
    UNIQUE (topic, name)
);
-- A position is topic << 40 | number, so that the messages of a topic lie together and need no second index.
CREATE TABLE message (
    position INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    published REAL NOT NULL,
    cargo BLOB -- the bytes of the object that the message tells of, where they are not durable elsewhere; last, as long
);
-- Only while other groups of the topic have not acknowledged the message; with the last of them it is deleted.
CREATE TABLE acknowledged (
    position INTEGER NOT NULL,
    subscriber INTEGER NOT NULL REFERENCES subscriber,
    PRIMARY KEY (position, subscriber)
) WITHOUT ROWID;
