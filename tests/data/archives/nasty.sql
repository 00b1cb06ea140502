-- The schema of nasty-15.dump, nasty-17.dump and nasty-18.dump. How they were made, with the
-- programs of each version, in an empty database "nasty" of a UTF8 cluster:
--   psql -f nasty.sql nasty && pg_dump -Fc --schema-only -f nasty-<version>.dump nasty
--   pg_restore -l nasty-<version>.dump | grep -v '^;' > nasty-<version>.list

CREATE ROLE toc_owner;
CREATE ROLE toc_reader;
ALTER DATABASE nasty SET work_mem = '8MB';

CREATE EXTENSION pg_trgm;
CREATE SCHEMA app;
CREATE SCHEMA "odd.schema";
CREATE SCHEMA unrelated;
GRANT USAGE ON SCHEMA app TO toc_reader;
COMMENT ON SCHEMA app IS 'the application';

-- types
CREATE TYPE app.state AS ENUM ('new', 'paid', 'it''s gone');
CREATE DOMAIN app.email AS text CONSTRAINT has_at CHECK (VALUE LIKE '%@%');
CREATE TYPE app.address AS (street text, city text, mail app.email);
CREATE TYPE app.unused AS ENUM ('x');
CREATE TYPE app.span AS RANGE (subtype = int);
CREATE COLLATION app.plain FROM "C";

-- functions: one by its name in a default, one in an index, one in a trigger, one in a check
CREATE FUNCTION app.next_code() RETURNS text LANGUAGE sql AS 'SELECT ''c''::text';
CREATE FUNCTION app.fold(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(t)';
CREATE FUNCTION app.valid(t text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT t <> ''''';
CREATE FUNCTION app.stamp() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO app.log (note) VALUES (TG_TABLE_NAME); RETURN NEW; END';
CREATE FUNCTION app.mine(o text) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT o = current_user';
CREATE FUNCTION app.unused_function() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION app.first_code(text, text) RETURNS text LANGUAGE sql AS 'SELECT coalesce($1, $2)';
CREATE AGGREGATE app.first_of(text) (SFUNC = app.first_code, STYPE = text);

-- a serial, an identity, defaults, a check that calls a function, a generated column
CREATE TABLE app.customers (
  id serial PRIMARY KEY,
  code text DEFAULT app.next_code() UNIQUE,
  name text COLLATE app.plain NOT NULL CHECK (app.valid(name)),
  mail app.email,
  home app.address,
  folded text GENERATED ALWAYS AS (app.fold(code)) STORED
);
ALTER TABLE app.customers OWNER TO toc_owner;
ALTER TABLE app.customers ADD CONSTRAINT not_long CHECK (length(name) < 100) NOT VALID;
CREATE INDEX customers_folded ON app.customers (app.fold(name));
CREATE INDEX customers_trigram ON app.customers USING gin (name gin_trgm_ops);
CREATE INDEX "customers where" ON app.customers (id) WHERE mail IS NOT NULL;
CREATE STATISTICS app.customers_stats ON id, name FROM app.customers;
ALTER INDEX app.customers_folded ALTER COLUMN 1 SET STATISTICS 500;
CREATE TRIGGER stamp BEFORE INSERT ON app.customers FOR EACH ROW EXECUTE FUNCTION app.stamp();
COMMENT ON TABLE app.customers IS 'who buys';
COMMENT ON COLUMN app.customers.name IS 'the name';
COMMENT ON INDEX app.customers_folded IS 'for search';
COMMENT ON TRIGGER stamp ON app.customers IS 'leaves a note';
COMMENT ON CONSTRAINT not_long ON app.customers IS 'a limit';
GRANT SELECT ON app.customers TO toc_reader;
GRANT UPDATE (name) ON app.customers TO toc_reader;
GRANT USAGE ON SEQUENCE app.customers_id_seq TO toc_reader;
GRANT EXECUTE ON FUNCTION app.next_code() TO toc_reader;
ALTER TABLE app.customers REPLICA IDENTITY USING INDEX customers_pkey;
ALTER TABLE app.customers CLUSTER ON customers_pkey;

CREATE TABLE app.log (
  id bigint GENERATED ALWAYS AS IDENTITY, note text, kept app.span,
  EXCLUDE USING gist (kept WITH &&)
);
CREATE RULE log_is_kept AS ON DELETE TO app.log DO INSTEAD NOTHING;
GRANT USAGE ON SEQUENCE app.log_id_seq TO toc_reader;

-- a sequence that only a default names
CREATE SEQUENCE app.shared_numbers;
CREATE TABLE app.tickets (number bigint DEFAULT nextval('app.shared_numbers'), state app.state);

-- partitions, two levels, attached indexes, a partition in another schema
CREATE TABLE app.orders (
  id bigint NOT NULL, day date NOT NULL, customer int REFERENCES app.customers,
  state app.state DEFAULT 'new', PRIMARY KEY (id, day)
) PARTITION BY RANGE (day);
CREATE INDEX orders_customer ON app.orders (customer);
CREATE TABLE app.orders_2024 PARTITION OF app.orders
  FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE app.orders_2025 PARTITION OF app.orders
  FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY HASH (id);
CREATE TABLE "odd.schema"."orders.2025 a" PARTITION OF app.orders_2025
  FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE "odd.schema"."orders.2025 b" PARTITION OF app.orders_2025
  FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE INDEX orders_2024_day ON app.orders_2024 (day);
CREATE TRIGGER stamp AFTER INSERT ON app.orders FOR EACH ROW EXECUTE FUNCTION app.stamp();
GRANT SELECT ON app.orders TO toc_reader;
-- references a partitioned table
CREATE TABLE app.lines (order_id bigint, day date, what text,
  FOREIGN KEY (order_id, day) REFERENCES app.orders (id, day));

-- inheritance
CREATE TABLE app.animals (name text PRIMARY KEY);
CREATE TABLE app.dogs (bark text DEFAULT app.next_code()) INHERITS (app.animals);

-- a circle of foreign keys, one deferrable, and one to itself
CREATE TABLE app.hen (id int PRIMARY KEY, egg int, mother int REFERENCES app.hen);
CREATE TABLE app.egg (id int PRIMARY KEY, hen int REFERENCES app.hen DEFERRABLE);
ALTER TABLE app.hen ADD CONSTRAINT hen_egg_fkey FOREIGN KEY (egg) REFERENCES app.egg;
-- references a unique index, not a constraint
CREATE TABLE app.badges (code text);
CREATE UNIQUE INDEX badges_code ON app.badges (code);
CREATE TABLE app.wearers (code text REFERENCES app.badges (code));

-- odd names
CREATE TABLE "odd.schema"."a ""quoted"".table" ("the; id" int PRIMARY KEY, "new
line" text);
COMMENT ON TABLE "odd.schema"."a ""quoted"".table" IS 'odd';
CREATE TABLE "odd.schema"."line
12; 0 0 TABLE broken" (x int, CONSTRAINT "c
d" UNIQUE (x));
CREATE TABLE "odd.schema"."Größe 表" (x int);
CREATE INDEX "two  spaces" ON "odd.schema"."Größe 表" (x);

-- views over materialized views over views; the names do not sort as they depend
CREATE VIEW app.v_paid AS SELECT * FROM app.orders WHERE state = 'paid';
CREATE MATERIALIZED VIEW app.z_first AS SELECT customer, count(*) AS n FROM app.v_paid GROUP BY 1;
CREATE UNIQUE INDEX z_first_customer ON app.z_first (customer);
CREATE VIEW app.m_between AS SELECT c.name, z.n FROM app.z_first z JOIN app.customers c ON c.id = z.customer;
CREATE MATERIALIZED VIEW app.a_last AS SELECT name FROM app.m_between WHERE n > 1;
CREATE MATERIALIZED VIEW app.b_alone AS SELECT 1 AS one WITH NO DATA;
GRANT SELECT ON app.a_last TO toc_reader;
-- a view that needs a primary key (GROUP BY), so pg_dump puts it off
CREATE VIEW app.v_grouped AS SELECT id, code, count(*) AS n FROM app.customers GROUP BY id;
CREATE MATERIALIZED VIEW app.after_key AS SELECT * FROM app.v_grouped;
CREATE MATERIALIZED VIEW app.grouped_too AS SELECT id, code, count(*) AS n FROM app.customers GROUP BY id;
-- a circle: a view of a function's type that reads the view
CREATE VIEW app.v_circle AS SELECT 1 AS one;
CREATE FUNCTION app.circle() RETURNS SETOF app.v_circle LANGUAGE sql AS 'SELECT 1';
CREATE OR REPLACE VIEW app.v_circle AS SELECT one FROM app.circle();
CREATE RULE insert_paid AS ON INSERT TO app.v_paid DO INSTEAD NOTHING;
CREATE FUNCTION app.redirect() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER redirect INSTEAD OF UPDATE ON app.m_between
  FOR EACH ROW EXECUTE FUNCTION app.redirect();

-- a typed table, a function over a table's row type, a SQL function with a parsed body
CREATE TYPE app.reading AS (at timestamptz, value int);
CREATE TABLE app.readings OF app.reading;
CREATE FUNCTION app.describe(c app.customers) RETURNS text LANGUAGE sql AS 'SELECT c.name';
CREATE FUNCTION app.count_hens() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM app.hen; END;
CREATE TABLE app.farms (hens bigint DEFAULT app.count_hens());

-- what names a second table by its row type: which one is it attached to?
CREATE FUNCTION app.of_hen(h app.hen) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE TABLE app.cages (id int, CHECK (app.of_hen(ROW(id, id, id)::app.hen) = 1));
ALTER TABLE app.cages ADD CONSTRAINT late CHECK (app.of_hen(ROW(1, 1, 1)::app.hen) = 1) NOT VALID;
CREATE INDEX "on hens?" ON app.cages (app.of_hen(ROW(id, id, id)::app.hen)) WHERE (ROW(1, 1, id)::app.hen) IS NOT NULL;
CREATE DOMAIN app.late AS int;
ALTER DOMAIN app.late ADD CONSTRAINT positive CHECK (VALUE > 0) NOT VALID;
CREATE TABLE public.plain (x app.late);
GRANT USAGE ON SCHEMA public TO toc_reader;

-- row security
ALTER TABLE app.tickets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON app.tickets USING (app.mine(state::text));
COMMENT ON POLICY own ON app.tickets IS 'only mine';
CREATE TABLE app.members (team int, login text);
ALTER TABLE app.customers ENABLE ROW LEVEL SECURITY;
CREATE POLICY team ON app.customers TO toc_reader
  USING (EXISTS (SELECT FROM app.members m WHERE m.login = current_user));

-- what no table needs
CREATE TABLE unrelated.t (x int PRIMARY KEY);
CREATE FUNCTION unrelated.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION unrelated.on_ddl();
CREATE PUBLICATION everything FOR TABLE app.customers, unrelated.t;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO toc_reader;
SELECT lo_create(4711);
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE app.remote (x int) SERVER far;
