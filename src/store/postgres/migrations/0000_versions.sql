-- Which migrations a schema has had.
CREATE SCHEMA IF NOT EXISTS {schema};

CREATE TABLE IF NOT EXISTS {schema}.migration (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    -- The oldest version whose code can run on this schema.
    compatible integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
