-- A web shop, as a database looks after six years: mostly tidy, with a few rooms that nobody
-- likes to enter. Loaded by psql or over any driver as one simple query, by a superuser, into an
-- empty UTF-8 database of PostgreSQL 15 or newer. Every value is derived from row numbers and
-- hashes, every date is fixed: two loads hold the same rows.

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET client_min_messages = warning;
SET TIME ZONE 'UTC';
SET DateStyle = 'ISO, YMD';

-- --- who may do what ----------------------------------------------------------------------

-- Roles belong to the server, not to the database: a second shop on it finds them already there.
DO $$
BEGIN
    CREATE ROLE shop_app NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;
DO $$
BEGIN
    CREATE ROLE shop_readonly NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

CREATE SCHEMA warehouse;
COMMENT ON SCHEMA warehouse IS 'what lies on which shelf; moved here from the old ERP in 2021';
-- The Moscow office named its own schema.
CREATE SCHEMA "Интернет";

GRANT USAGE ON SCHEMA public, warehouse TO shop_app, shop_readonly;
GRANT USAGE ON SCHEMA "Интернет" TO shop_readonly;
-- Tables that are created later are readable for the analysts without asking anybody.
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO shop_readonly;
ALTER DEFAULT PRIVILEGES IN SCHEMA warehouse GRANT SELECT, INSERT ON TABLES TO shop_app;

-- --- types --------------------------------------------------------------------------------

CREATE TYPE order_status AS ENUM ('cart', 'placed', 'paid', 'shipped', 'returned', 'it''s complicated');
-- A level was added between two others: labels are not stored in their sorting order. No customer
-- has it yet (a label that is added and used in one transaction is refused by PostgreSQL 15).
CREATE TYPE loyalty AS ENUM ('bronze', 'silver', 'gold');
ALTER TYPE loyalty ADD VALUE 'steel' BEFORE 'silver';
COMMENT ON TYPE loyalty IS 'steel came later, sorts before silver';

CREATE DOMAIN currency_code AS char(3) DEFAULT 'EUR' CHECK (VALUE ~ '^[A-Z]{3}$');
CREATE DOMAIN price AS numeric(12, 2) CONSTRAINT price_is_not_negative CHECK (VALUE >= 0);
CREATE DOMAIN email_address AS text CHECK (VALUE ~ '^[^@\s]+@[^@\s]+$');

-- An amount without its currency is a bug, so both travel in one column.
CREATE TYPE money_amount AS (amount numeric(12, 2), currency currency_code);
CREATE TYPE geo_point AS (latitude double precision, longitude double precision);

-- --- text search --------------------------------------------------------------------------

-- Product names are full of model numbers: they must not be stemmed.
CREATE TEXT SEARCH CONFIGURATION shop_english (COPY = pg_catalog.english);
ALTER TEXT SEARCH CONFIGURATION shop_english
    ALTER MAPPING FOR asciiword, asciihword, numword WITH pg_catalog.simple;
COMMENT ON TEXT SEARCH CONFIGURATION shop_english IS 'english without stemming of model numbers';

-- --- functions ----------------------------------------------------------------------------

-- Used by a unique index: a restore that cannot call it cannot build the index.
CREATE FUNCTION normalize_email(address text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT lower(btrim(address)) $$;
COMMENT ON FUNCTION normalize_email(text) IS 'what makes two addresses the same customer';

-- Standard-SQL body: the server stores the parsed tree, not the text.
CREATE FUNCTION gross(net numeric, tax_percent numeric DEFAULT 19) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN round(net * (1 + tax_percent / 100), 2);

CREATE FUNCTION weighted_sum(state numeric[], value numeric, weight numeric) RETURNS numeric[]
    LANGUAGE sql IMMUTABLE
    AS $$ SELECT ARRAY[state[1] + value * weight, state[2] + weight] $$;
CREATE FUNCTION weighted_result(state numeric[]) RETURNS numeric
    LANGUAGE sql IMMUTABLE
    AS $$ SELECT state[1] / nullif(state[2], 0) $$;
CREATE AGGREGATE weighted_average(value numeric, weight numeric) (
    SFUNC = weighted_sum, STYPE = numeric[], FINALFUNC = weighted_result, INITCOND = '{0,0}'
);

-- --- people -------------------------------------------------------------------------------

-- Staff. Ids are only ever given by the database.
CREATE TABLE users (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    login text COLLATE "C" NOT NULL UNIQUE,
    full_name text NOT NULL,
    manager_id integer REFERENCES users (id),  -- a table that refers to itself
    password_hash bytea NOT NULL,
    duties text[] NOT NULL DEFAULT '{}',
    shifts integer[][],
    employed daterange NOT NULL
);
INSERT INTO users (login, full_name, manager_id, password_hash, duties, shifts, employed)
SELECT 'staff' || lpad(n::text, 2, '0'),
       (ARRAY['Ada', 'Bjørn', 'Chloë', 'Дмитрий', 'Eşref', '美咲'])[1 + n % 6] || ' '
           || (ARRAY['Müller', 'O''Brien', 'Nguyễn', 'Smith', 'Žižek'])[1 + n % 5],
       -- Everybody's manager but the first one's comes later in the table: rows that are
       -- restored one by one, in order, violate the constraint.
       CASE WHEN n < 40 THEN 40 - n / 10 END,
       sha256(convert_to('staff' || n, 'UTF8')),
       CASE n % 3 WHEN 0 THEN ARRAY['orders', 'returns']
                  WHEN 1 THEN ARRAY['says "hi", often', NULL, '', 'NULL', '{}']
                  ELSE '{}' END,
       CASE WHEN n % 2 = 0 THEN ARRAY[[n, n + 1], [n + 2, NULL]] ELSE '[-1:1]={1,2,3}'::integer[] END,
       daterange(date '2019-01-01' + n * 17, CASE WHEN n % 4 = 0 THEN date '2023-01-01' + n END)
FROM generate_series(1, 40) AS n;

-- A customer has addresses, one of which is the default: two tables that refer to each other.
CREATE TABLE customers (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    email email_address NOT NULL,
    name text NOT NULL,
    level loyalty NOT NULL DEFAULT 'bronze',
    default_address_id bigint,
    preferences jsonb NOT NULL DEFAULT '{}',
    credit money_amount,
    born date,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE customers IS 'people who bought something; see "weird.name" for those who did not';
COMMENT ON COLUMN customers.credit IS E'vouchers and refunds;\nnever negative, says accounting\\legal';
INSERT INTO customers
    (email, name, level, default_address_id, preferences, credit, born, created_at, updated_at)
SELECT 'Customer' || n || '@' || (ARRAY['example.com', 'example.org', 'müller.example'])[1 + n % 3],
       (ARRAY['Anna', 'Boris', 'Chidi', 'Dörte', 'Émile', 'Fatima', 'Γιώργος', '花子'])[1 + n % 8] || ' '
           || initcap(substr(translate(md5('c' || n), '0123456789', 'ghijklmnop'), 1, 8)),
       (ARRAY['bronze', 'bronze', 'silver', 'gold'])[1 + n % 4]::loyalty,
       n,
       jsonb_build_object('newsletter', n % 2 = 0, 'language', (ARRAY['de', 'en', 'fr'])[1 + n % 3],
                          'sizes', jsonb_build_array(36 + n % 12, NULL, 'M')),
       CASE WHEN n % 5 = 0 THEN ROW((n % 90) + 0.5, 'EUR')::money_amount
            WHEN n % 7 = 0 THEN ROW(NULL, 'USD')::money_amount END,
       date '1940-01-01' + (n * 7919) % 23000,
       timestamptz '2019-03-01 08:00+00' + n * interval '4 hours',
       timestamptz '2024-01-01 08:00+00' + n * interval '7 minutes'
FROM generate_series(1, 12000) AS n;

CREATE TABLE addresses (
    id bigserial PRIMARY KEY,
    customer_id bigint NOT NULL,
    street text NOT NULL,
    city text NOT NULL,
    postcode text,
    country char(2) NOT NULL,
    "where" geo_point
);
INSERT INTO addresses (customer_id, street, city, postcode, country, "where")
SELECT 1 + (n - 1) % 12000,
       (ARRAY['Hauptstraße', 'High Street', 'Rue de l''Église', 'ул. Ленина'])[1 + n % 4] || ' ' || 1 + n % 200,
       (ARRAY['Köln', 'Leeds', 'Lyon', 'Тверь', 'Århus'])[1 + n % 5],
       CASE WHEN n % 50 <> 0 THEN lpad(((n * 31) % 99999)::text, 5, '0') END,
       (ARRAY['DE', 'GB', 'FR', 'RU', 'DK'])[1 + n % 5],
       ROW(45 + (n % 1000) / 100.0, (n % 2000) / 100.0)::geo_point
FROM generate_series(1, 15000) AS n;

ALTER TABLE addresses ADD FOREIGN KEY (customer_id) REFERENCES customers (id)
    ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE customers ADD FOREIGN KEY (default_address_id) REFERENCES addresses (id)
    ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED;
CREATE UNIQUE INDEX customers_email ON customers (normalize_email(email));
CREATE INDEX customers_preferences ON customers USING gin (preferences jsonb_path_ops);
CREATE INDEX addresses_of_customer ON addresses (customer_id);

-- --- what is sold -------------------------------------------------------------------------

CREATE TABLE categories (
    id integer GENERATED BY DEFAULT AS IDENTITY (START WITH 100 INCREMENT BY 5) PRIMARY KEY,
    parent_id integer REFERENCES categories (id) ON DELETE SET NULL,
    name text NOT NULL
);
INSERT INTO categories (parent_id, name)
SELECT CASE WHEN n > 4 THEN 100 + 5 * (n % 4) END,
       (ARRAY['Garden', 'Kitchen & "more"', 'Toys', 'Bücher'])[1 + n % 4] || ' ' || n
FROM generate_series(1, 24) AS n;

CREATE TABLE products (
    id serial PRIMARY KEY,
    sku text COLLATE "C" NOT NULL UNIQUE,
    name text NOT NULL,
    description text NOT NULL,
    category_id integer NOT NULL REFERENCES categories (id),
    price price NOT NULL,
    supplier_fax text,  -- dropped below: a hole in the middle of the row
    gross_price numeric GENERATED ALWAYS AS (round(price * 1.19, 2)) STORED,
    attributes jsonb NOT NULL,
    tags text[] NOT NULL,
    brand text,
    stock integer NOT NULL DEFAULT 0,
    manual oid,  -- a large object
    updated_at timestamptz NOT NULL DEFAULT now(),
    search tsvector GENERATED ALWAYS AS (
        setweight(to_tsvector('public.shop_english', name), 'A')
        || to_tsvector('public.shop_english', description)
    ) STORED
);
INSERT INTO products
    (sku, name, description, category_id, price, supplier_fax, attributes, tags, brand, stock, updated_at)
SELECT 'SKU-' || upper(substr(md5('p' || n), 1, 8)) || '-' || n,
       (ARRAY['Kettle', 'Lawn mower', 'Puzzle', 'Teapot 🫖', 'Lamp', 'Atlas'])[1 + n % 6] || ' X' || n,
       'Sturdy, ' || (ARRAY['red', 'blue', 'grün', 'transparent'])[1 + n % 4] || ', weighs '
           || n % 40 || ' kg. Batch ' || md5('d' || n) || '. Do not put into the dishwasher.',
       100 + 5 * (n % 24),
       1 + (n * 37) % 500 + 0.99,
       '+49 221 ' || n,
       jsonb_build_object('weight_kg', n % 40, 'colour', (ARRAY['red', 'blue'])[1 + n % 2],
                          'size', jsonb_build_object('w', n % 90, 'h', n % 70), 'eco', n % 3 = 0),
       ARRAY['tag' || n % 10, 'tag' || n % 17],
       CASE WHEN n % 9 <> 0 THEN 'Brand ' || n % 24 END,
       (n * 13) % 400,
       timestamptz '2024-02-01 00:00+00' + n * interval '9 minutes'
FROM generate_series(1, 2500) AS n;
-- Nobody sends a fax any more. The server keeps the place in every row; column numbers have a gap.
ALTER TABLE products DROP COLUMN supplier_fax;
-- Two descriptions that came out of a spreadsheet: tabs, line ends, backslashes, the end mark of
-- a COPY, things that look like NULL.
UPDATE products SET description = E'tab:\there\nnext line\r\n\\N\n\\.\nback\\slash \\\\ "quoted" ''single'' \u2028 😀 \x01\x7f'
WHERE id = 7;
UPDATE products SET description = '' WHERE id = 8;
UPDATE products SET name = '\N' WHERE id = 9;
CREATE INDEX products_attributes ON products USING gin (attributes);
CREATE INDEX products_tags ON products USING gin (tags);
CREATE INDEX products_search ON products USING gin (search);
CREATE INDEX products_scarce ON products (stock) INCLUDE (name) WHERE stock < 10;
-- Brand and category go together: without this the planner guesses far too few rows.
CREATE STATISTICS products_brand_category (dependencies, ndistinct) ON brand, category_id FROM products;
COMMENT ON STATISTICS products_brand_category IS 'a brand sells in one category only';

-- Pictures: bytes that hardly compress.
CREATE TABLE product_images (
    product_id integer REFERENCES products (id) ON DELETE CASCADE,
    position smallint,
    jpeg bytea NOT NULL,
    PRIMARY KEY (product_id, position)
);
ALTER TABLE product_images ALTER COLUMN jpeg SET STORAGE EXTERNAL;
INSERT INTO product_images (product_id, position, jpeg)
SELECT p, 1, '\xffd8ffe0'::bytea || decode(string_agg(md5(p || '/' || block), '' ORDER BY block), 'hex')
FROM generate_series(1, 600) AS p, generate_series(1, 900) AS block
GROUP BY p;

-- Manuals as large objects, from the time when that was recommended. A dump of single tables or
-- schemas leaves them out.
SELECT lo_from_bytea(4711001, convert_to('%PDF-1.4 how to boil water', 'UTF8'));
SELECT lo_from_bytea(4711002, (
    SELECT decode(string_agg(md5('manual' || n), '' ORDER BY n), 'hex') FROM generate_series(1, 20000) AS n));
SELECT lo_from_bytea(4711003, '');
COMMENT ON LARGE OBJECT 4711001 IS 'manual of the kettle, it''s the 3rd edition';
COMMENT ON LARGE OBJECT 4711002 IS 'manual of the lawn mower';
GRANT SELECT ON LARGE OBJECT 4711001 TO shop_readonly;
ALTER LARGE OBJECT 4711003 OWNER TO shop_app;
UPDATE products SET manual = 4711000 + id WHERE id <= 3;

-- --- what is bought -----------------------------------------------------------------------

CREATE TABLE orders (
    id bigserial PRIMARY KEY,
    customer_id bigint,
    fax_confirmed boolean,  -- dropped below
    status order_status NOT NULL DEFAULT 'cart',
    history order_status[] NOT NULL DEFAULT '{cart}',
    shipping_cost money_amount NOT NULL,
    delivery tstzrange,
    placed_at timestamptz NOT NULL DEFAULT now(),
    remark text
);
ALTER TABLE orders DROP COLUMN fax_confirmed;
INSERT INTO orders (customer_id, status, history, shipping_cost, delivery, placed_at, remark)
SELECT 1 + (n * 7919) % 12000,
       (ARRAY['placed', 'paid', 'shipped', 'shipped', 'shipped', 'returned', 'it''s complicated'])[1 + n % 7]::order_status,
       CASE WHEN n % 7 = 0 THEN '{cart,placed}' ELSE '{cart,placed,paid,"it''s complicated"}' END::order_status[],
       ROW(CASE WHEN n % 3 = 0 THEN 0 ELSE 4.95 END, 'EUR')::money_amount,
       CASE WHEN n % 4 <> 0 THEN tstzrange(timestamptz '2021-01-03 09:00+00' + n * interval '40 minutes',
                                          timestamptz '2021-01-05 18:00+00' + n * interval '40 minutes', '[)') END,
       timestamptz '2021-01-01 06:00+00' + n * interval '40 minutes',
       CASE WHEN n % 23 = 0 THEN E'ring twice,\tthen\nwait \\ 🐕' END
FROM generate_series(1, 45000) AS n;
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers (id) ON DELETE SET NULL;
CREATE INDEX orders_of_customer ON orders (customer_id, placed_at DESC NULLS LAST);

CREATE TABLE order_items (
    order_id bigint NOT NULL,
    line_number smallint NOT NULL,
    product_id integer NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    unit_price price NOT NULL,
    line_total numeric(14, 2) GENERATED ALWAYS AS (quantity * unit_price) STORED
);
INSERT INTO order_items (order_id, line_number, product_id, quantity, unit_price)
SELECT o, line, product, 1 + (o + line) % 3, 1 + (product * 37) % 500 + 0.99
FROM generate_series(1, 45000) AS o,
     LATERAL generate_series(1, 1 + o % 4) AS line,
     LATERAL (SELECT 1 + (o * 7919 + line * 104729) % 2500 AS product) AS chosen;
ALTER TABLE order_items
    ADD PRIMARY KEY (order_id, line_number),
    ADD FOREIGN KEY (order_id) REFERENCES orders (id) ON DELETE CASCADE,
    ADD CONSTRAINT "what was sold" FOREIGN KEY (product_id) REFERENCES products (id);

-- Payments inherit: a SELECT on payments returns the rows of all three tables, so that a copy
-- without ONLY would store most of them twice.
CREATE TABLE payments (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id bigint NOT NULL,
    amount price NOT NULL,
    paid_at timestamp NOT NULL
);
CREATE SEQUENCE payment_reference_seq;
CREATE TABLE card_payments (
    card_hint char(8) NOT NULL,
    PRIMARY KEY (id)
) INHERITS (payments);
CREATE TABLE voucher_payments (
    voucher uuid NOT NULL,
    reference bigint NOT NULL DEFAULT nextval('payment_reference_seq')
) INHERITS (payments);
INSERT INTO payments (order_id, amount, paid_at)
SELECT n, 10, timestamp '2021-02-01 12:00' + n * interval '1 hour' FROM generate_series(1, 500) AS n;
INSERT INTO card_payments (id, order_id, amount, paid_at, card_hint)
SELECT 100000 + n, n, (n % 300) + 0.5, timestamp '2021-01-01 12:00' + n * interval '40 minutes',
       lpad((n % 10000)::text, 4, '0')
FROM generate_series(501, 30000) AS n;
INSERT INTO voucher_payments (id, order_id, amount, paid_at, voucher)
SELECT 200000 + n, n, 25, timestamp '2022-01-01 12:00' + n * interval '40 minutes', md5('v' || n)::uuid
FROM generate_series(30001, 36000) AS n;

-- Invoice numbers go up in tens, from a sequence that no column owns. It has been advanced past
-- the last invoice: a restore that restarts it gives numbers out twice.
CREATE SEQUENCE invoice_number_seq INCREMENT BY 10 START WITH 1000 MINVALUE 1000 CACHE 5;
CREATE TABLE invoices (
    number text PRIMARY KEY DEFAULT 'R-' || nextval('invoice_number_seq'),
    order_id bigint NOT NULL UNIQUE REFERENCES orders (id) ON DELETE CASCADE,
    total numeric(14, 2) NOT NULL,
    due date NOT NULL
);
INSERT INTO invoices (number, order_id, total, due)
SELECT 'R-' || 990 + 10 * n, n, 20 + n % 400, date '2021-02-01' + n / 30 FROM generate_series(1, 5000) AS n;
SELECT setval('invoice_number_seq', 52340);
-- Counts down, is used up and starts again; never called yet.
CREATE SEQUENCE countdown_seq AS smallint INCREMENT BY -1 MINVALUE -10 MAXVALUE 10 START WITH 10 CYCLE;

-- One photo studio: two bookings never overlap. Both kinds of range need no extension.
CREATE TABLE studio_bookings (
    during tstzrange NOT NULL,
    shelf_metres int4range NOT NULL,
    blocked_days datemultirange NOT NULL DEFAULT '{}',
    booked_by integer REFERENCES users (id),
    CONSTRAINT studio_is_used_once EXCLUDE USING gist (during WITH &&),
    CONSTRAINT shelf_is_used_once EXCLUDE USING gist (shelf_metres WITH &&) WHERE (booked_by IS NOT NULL)
);
INSERT INTO studio_bookings
SELECT tstzrange(timestamptz '2024-01-01 08:00+00' + n * interval '1 day',
                 timestamptz '2024-01-01 12:00+00' + n * interval '1 day'),
       int4range(n * 2, n * 2 + 2),
       datemultirange(daterange(date '2024-01-01', date '2024-01-03'), daterange(date '2024-02-01', NULL)),
       1 + n % 40
FROM generate_series(1, 200) AS n;
INSERT INTO studio_bookings VALUES ('[2030-01-01 00:00+00,infinity]', 'empty', '{}', NULL);

-- --- what people look at ------------------------------------------------------------------

-- By month, June by device as well (the campaign), the rest where it fell. No primary key.
CREATE TABLE page_views (
    id bigint NOT NULL,
    viewed_at timestamptz NOT NULL,
    device text NOT NULL,
    customer_id bigint,
    path text NOT NULL,
    client inet,
    milliseconds real,
    details jsonb
) PARTITION BY RANGE (viewed_at);
CREATE TABLE page_views_2024_01 PARTITION OF page_views FOR VALUES FROM ('2024-01-01 00:00+00') TO ('2024-02-01 00:00+00');
CREATE TABLE page_views_2024_02 PARTITION OF page_views FOR VALUES FROM ('2024-02-01 00:00+00') TO ('2024-03-01 00:00+00');
CREATE TABLE page_views_2024_03 PARTITION OF page_views FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-04-01 00:00+00');
CREATE TABLE page_views_2024_04 PARTITION OF page_views FOR VALUES FROM ('2024-04-01 00:00+00') TO ('2024-05-01 00:00+00');
CREATE TABLE page_views_2024_06 PARTITION OF page_views FOR VALUES FROM ('2024-06-01 00:00+00') TO ('2024-07-01 00:00+00')
    PARTITION BY LIST (device);
CREATE TABLE page_views_2024_06_phone PARTITION OF page_views_2024_06 FOR VALUES IN ('phone', 'tablet');
CREATE TABLE "page_views_2024_06_Rest" PARTITION OF page_views_2024_06 DEFAULT;
CREATE TABLE page_views_default PARTITION OF page_views DEFAULT;
-- May was loaded elsewhere and attached later: its columns stand in another order.
CREATE TABLE page_views_2024_05 (
    details jsonb,
    path text NOT NULL,
    obsolete integer,
    device text NOT NULL,
    id bigint NOT NULL,
    customer_id bigint,
    client inet,
    milliseconds real,
    viewed_at timestamptz NOT NULL
);
ALTER TABLE page_views_2024_05 DROP COLUMN obsolete;
ALTER TABLE page_views ATTACH PARTITION page_views_2024_05
    FOR VALUES FROM ('2024-05-01 00:00+00') TO ('2024-06-01 00:00+00');
INSERT INTO page_views (id, viewed_at, device, customer_id, path, client, milliseconds, details)
SELECT n,
       timestamptz '2023-12-20 00:00+00' + n * interval '97 seconds',
       (ARRAY['phone', 'tablet', 'desktop', 'fridge', 'phone'])[1 + n % 5],
       CASE WHEN n % 3 <> 0 THEN 1 + (n * 31) % 12000 END,
       '/products/' || 1 + (n * 7919) % 2500 || CASE WHEN n % 11 = 0 THEN '?utm_source=mail' ELSE '' END,
       inet '10.0.0.0' + (n * 2654435761) % 16777216,
       (n % 997) * 1.37,
       CASE WHEN n % 2 = 0 THEN jsonb_build_object('session', substr(md5('s' || n / 12), 1, 16), 'scrolled', n % 100) END
FROM generate_series(1, 180000) AS n;
CREATE INDEX page_views_when ON page_views (viewed_at);
CREATE INDEX page_views_2024_06_customers ON page_views_2024_06_phone (customer_id) WHERE customer_id IS NOT NULL;

-- The same person twice is two rows, identical to the last byte: no key tells them apart.
CREATE TABLE newsletter_signups (email text, source text);
INSERT INTO newsletter_signups
SELECT 'reader' || n % 700 || '@example.com', CASE WHEN n % 2 = 0 THEN 'footer' END
FROM generate_series(1, 2100) AS n;

-- May be lost in a crash, and is; but it should not be lost in a move.
CREATE UNLOGGED TABLE carts (
    token uuid PRIMARY KEY,
    content jsonb NOT NULL
);
INSERT INTO carts
SELECT md5('cart' || n)::uuid, jsonb_build_array(jsonb_build_object('product', n % 2500, 'quantity', 1 + n % 4))
FROM generate_series(1, 1500) AS n;
ALTER TABLE carts OWNER TO shop_app;
GRANT SELECT (token) ON carts TO shop_readonly;

-- Planned for next year.
CREATE TABLE subscriptions (
    customer_id bigint REFERENCES customers (id) ON DELETE CASCADE,
    starts date,
    every_months integer CHECK (every_months BETWEEN 1 AND 12)
);

-- All columns were moved elsewhere; three rows without a column remained.
CREATE TABLE legacy_flags (flag text, value boolean);
INSERT INTO legacy_flags VALUES ('beta', true), ('dark', false), ('y2k', NULL);
ALTER TABLE legacy_flags DROP COLUMN flag, DROP COLUMN value;

-- The laboratory measures what we sell. Its device knows values that most people do not expect.
CREATE TABLE measurements (
    id integer PRIMARY KEY,
    exact numeric,
    fast double precision,
    faster real,
    measured_at timestamptz,
    local_time timestamp,
    took interval
);
INSERT INTO measurements VALUES
    (1, 'NaN', 'NaN', 'NaN', 'infinity', '-infinity', '1 mon -2 days +03:04:05.678901'),
    (2, 'Infinity', 'Infinity', '-Infinity', '-infinity', 'infinity', '-178000000 years'),
    (3, '-Infinity', '1.7976931348623157e308', '3.4028235e38', '0044-03-15 12:00:00+00 BC', '4713-01-01 00:00:00 BC', '0'),
    (4, 0.1000, '5e-324', '1e-45', '294276-12-31 23:59:59.999999+00', '294276-12-31 23:59:59.999999', '-00:00:00.000001'),
    (5, 1e100, '-0', '-0', '1969-12-31 23:59:59.999999+00', '2000-02-29 24:00:00', NULL),
    (6, 123456789012345678901234567890.123456789012345678901234567890, 0.1, 0.1, NULL, NULL, NULL),
    (7, -0.000000000000000000000000000001, 2.220446049250313e-16, 16777217, NULL, NULL, 'P1Y2M3DT4H5M6.7S');

-- What the page builder writes: its author had not read the list of reserved words.
CREATE TABLE display_slots (
    "order" integer NOT NULL,
    "select" boolean,
    "from" text,
    "user" text DEFAULT CURRENT_USER,
    "table" text,
    "Group By" text,
    PRIMARY KEY ("order")
);
INSERT INTO display_slots VALUES
    (1, true, 'home', 'staff01', 'products', 'a'), (2, false, 'cart', 'staff02', NULL, ''),
    (3, NULL, '"', '''', '\', E'\n');

-- Imported from the Cologne branch, with the names it used.
CREATE TABLE "Kundenaufträge" (
    "Auftrags-Nr." integer PRIMARY KEY,
    "Straße" text,
    "größe (cm)" numeric(6, 1) CONSTRAINT "Größe > 0" CHECK ("größe (cm)" > 0)
);
INSERT INTO "Kundenaufträge"
SELECT n, 'Straße ' || n, n / 10.0 FROM generate_series(1, 300) AS n;
COMMENT ON COLUMN "Kundenaufträge"."Straße" IS 'mit "ß", nicht mit ''ss''';

-- Exported by a tool that took its file names for table names. There is a schema of that name's
-- first half nowhere, and a table warehouse.shelves that is not this one.
CREATE TABLE "weird.name" ("a.b" integer, "%s" text, "{}" text);
INSERT INTO "weird.name" VALUES (1, '100 %', '{"a": 1}'), (2, '%s %(x)s', '$1 :name ?');
CREATE TABLE "warehouse.shelves" (note text);
INSERT INTO "warehouse.shelves" VALUES ('not the shelves of the warehouse');
CREATE TABLE "he said ""hi""" (" leading space" integer, "line
break" text, "'; DROP TABLE users; --" text);
INSERT INTO "he said ""hi""" VALUES (1, 'hi', 'Bobby');
CREATE TABLE "Интернет"."таблица" (
    "номер" integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "значение" text,
    "🚚" boolean DEFAULT false
);
INSERT INTO "Интернет"."таблица" ("значение") SELECT 'строка ' || n FROM generate_series(1, 200) AS n;

-- --- the warehouse ------------------------------------------------------------------------

CREATE TABLE warehouse.shelves (
    code text COLLATE "C" PRIMARY KEY,
    corner point NOT NULL,
    outline box NOT NULL,
    capacity bit(8) NOT NULL,
    controller macaddr
);
INSERT INTO warehouse.shelves
SELECT chr(65 + n / 10) || n % 10, point(n, -n), box(point(n, 0), point(n + 1, 2)), (n % 256)::bit(8),
       ('08:00:2b:00:00:' || lpad(to_hex(n % 256), 2, '0'))::macaddr
FROM generate_series(0, 99) AS n;
CREATE TABLE warehouse.stock_movements (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    product_id integer NOT NULL REFERENCES public.products (id),
    shelf text NOT NULL REFERENCES warehouse.shelves (code) ON UPDATE CASCADE,
    change integer NOT NULL,
    moved_at timestamp NOT NULL,
    CONSTRAINT something_moves CHECK (change <> 0) NOT VALID
);
INSERT INTO warehouse.stock_movements (product_id, shelf, change, moved_at)
SELECT 1 + (n * 31) % 2500, chr(65 + n % 10) || (n / 10) % 10, CASE n % 2 WHEN 0 THEN -1 ELSE 3 END,
       timestamp '2023-01-01 00:00' + n * interval '17 minutes'
FROM generate_series(1, 30000) AS n;
CREATE INDEX ON warehouse.stock_movements USING brin (moved_at);

-- --- logs and their triggers --------------------------------------------------------------

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    who name NOT NULL DEFAULT session_user,
    what text NOT NULL,
    old_row jsonb,
    new_row jsonb
);
INSERT INTO audit_log (at, who, what, old_row, new_row)
SELECT timestamptz '2023-06-01 00:00+00' + n * interval '11 minutes', 'staff' || lpad((1 + n % 40)::text, 2, '0'),
       'UPDATE products',
       jsonb_build_object('id', 1 + n % 2500, 'price', (n % 500) + 0.99, 'hash', md5('o' || n)),
       jsonb_build_object('id', 1 + n % 2500, 'price', (n % 480) + 0.49, 'hash', md5('n' || n))
FROM generate_series(1, 25000) AS n;

CREATE FUNCTION write_audit_log() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO public.audit_log (what, old_row, new_row)
    VALUES (TG_OP || ' ' || TG_TABLE_NAME,
            CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - 'search' - 'description' END,
            CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - 'search' - 'description' END);
    RETURN NULL;
END
$$;
-- Rows that are restored with this trigger in place are logged a second time.
CREATE TRIGGER products_audit AFTER INSERT OR UPDATE OR DELETE ON products
    FOR EACH ROW EXECUTE FUNCTION write_audit_log();
-- The auditors insist: not even session_replication_role = replica may go around it.
ALTER TABLE products ENABLE ALWAYS TRIGGER products_audit;

CREATE FUNCTION touch_updated_at() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.updated_at := pg_catalog.now();
    RETURN NEW;
END
$$;
CREATE TRIGGER customers_touch BEFORE UPDATE ON customers
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_updated_at();
CREATE TRIGGER products_touch BEFORE UPDATE OF price, name ON products
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
-- Switched off since the stock comes from the warehouse. It must stay off after a restore.
CREATE FUNCTION take_from_stock() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE public.products SET stock = stock - NEW.quantity WHERE id = NEW.product_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER order_items_stock AFTER INSERT ON order_items
    FOR EACH ROW EXECUTE FUNCTION take_from_stock();
ALTER TABLE order_items DISABLE TRIGGER order_items_stock;
COMMENT ON TRIGGER order_items_stock ON order_items IS 'off since 2022-05: stock is counted in the warehouse';

-- Coupons are never deleted, they are revoked: DELETE FROM coupons leaves every row in place.
CREATE TABLE coupons (
    code text PRIMARY KEY,
    percent smallint NOT NULL CHECK (percent BETWEEN 1 AND 100),
    revoked boolean NOT NULL DEFAULT false
);
INSERT INTO coupons SELECT upper(substr(md5('k' || n), 1, 6)) || n, 5 + n % 50, n % 5 = 0
FROM generate_series(1, 400) AS n;
CREATE RULE coupons_are_revoked AS ON DELETE TO coupons
    DO INSTEAD UPDATE coupons SET revoked = true WHERE code = OLD.code;

-- Who dropped a table, and when. Silent while the log itself is being dropped.
CREATE TABLE dropped_objects (
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    who name NOT NULL DEFAULT session_user,
    identity text NOT NULL
);
CREATE FUNCTION log_dropped_objects() RETURNS event_trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF pg_catalog.to_regclass('public.dropped_objects') IS NOT NULL THEN
        INSERT INTO public.dropped_objects (identity)
        SELECT object_identity FROM pg_catalog.pg_event_trigger_dropped_objects()
        WHERE object_type IN ('table', 'schema') AND NOT is_temporary;
    END IF;
END
$$;
CREATE EVENT TRIGGER shop_log_dropped_objects ON sql_drop
    WHEN TAG IN ('DROP TABLE', 'DROP SCHEMA') EXECUTE FUNCTION log_dropped_objects();

-- --- support, where each sees his own -----------------------------------------------------

CREATE TABLE support_tickets (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    subject text NOT NULL,
    internal_note text
);
INSERT INTO support_tickets
SELECT md5('t' || n)::uuid, 'shop_' || n % 3, 'Where is order ' || n || '?', CASE WHEN n % 4 = 0 THEN 'rude' END
FROM generate_series(1, 3000) AS n;
-- Forced: the owner too sees nothing without a tenant. A dump that is bound by it is silently
-- empty, or refuses.
ALTER TABLE support_tickets ENABLE ROW LEVEL SECURITY;
ALTER TABLE support_tickets FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON support_tickets FOR ALL TO shop_app
    USING (tenant = current_setting('shop.tenant', true))
    WITH CHECK (tenant = current_setting('shop.tenant', true));
CREATE POLICY "nothing secret" ON support_tickets AS RESTRICTIVE FOR SELECT TO shop_readonly
    USING (internal_note IS NULL);
-- Enabled without any policy: closed for everybody but its owner.
CREATE TABLE payroll (staff_id integer PRIMARY KEY REFERENCES users (id), salary money_amount NOT NULL);
INSERT INTO payroll SELECT n, ROW(2000 + n * 50, 'EUR')::money_amount FROM generate_series(1, 40) AS n;
ALTER TABLE payroll ENABLE ROW LEVEL SECURITY;

-- --- views --------------------------------------------------------------------------------

CREATE VIEW order_overview AS
    SELECT o.id, c.name AS customer, o.status, (o.shipping_cost).amount + sum(i.line_total) AS total
    FROM orders o
    JOIN order_items i ON i.order_id = o.id
    LEFT JOIN customers c ON c.id = o.customer_id
    GROUP BY o.id, c.id;
CREATE VIEW gold_customers WITH (security_barrier) AS
    SELECT id, name, email FROM customers WHERE level = 'gold' WITH CASCADED CHECK OPTION;
CREATE MATERIALIZED VIEW revenue_by_month AS
    SELECT date_trunc('month', o.placed_at AT TIME ZONE 'UTC')::date AS month,
           count(DISTINCT o.id) AS orders,
           sum(i.line_total) AS revenue,
           round(weighted_average(i.unit_price, i.quantity), 4) AS average_price
    FROM orders o JOIN order_items i ON i.order_id = o.id
    GROUP BY 1;
CREATE UNIQUE INDEX revenue_by_month_key ON revenue_by_month (month);
-- Never filled since it was defined; a restore must not fill it either.
CREATE MATERIALIZED VIEW revenue_by_product AS
    SELECT product_id, sum(line_total) AS revenue FROM order_items GROUP BY product_id
WITH NO DATA;
CREATE VIEW revenue_growth AS
    SELECT month, revenue, revenue - lag(revenue) OVER (ORDER BY month) AS growth FROM revenue_by_month;
COMMENT ON VIEW revenue_growth IS 'a view on a materialized view: order matters when both are restored';
-- A view that is written to.
CREATE VIEW open_coupons AS SELECT code, percent FROM coupons WHERE NOT revoked;
CREATE RULE open_coupons_insert AS ON INSERT TO open_coupons
    DO INSTEAD INSERT INTO coupons (code, percent) VALUES (NEW.code, NEW.percent);

-- --- jobs ---------------------------------------------------------------------------------

CREATE FUNCTION order_total(wanted bigint) RETURNS money_amount
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    result public.money_amount;
BEGIN
    SELECT sum(line_total), 'EUR' INTO result.amount, result.currency
    FROM public.order_items WHERE order_id = wanted;
    RETURN result;
END
$$;
CREATE PROCEDURE forget_old_page_views(before timestamptz)
    LANGUAGE plpgsql
    AS $$
BEGIN
    DELETE FROM public.page_views WHERE viewed_at < before;
    COMMIT;
END
$$;
REVOKE EXECUTE ON PROCEDURE forget_old_page_views(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE forget_old_page_views(timestamptz) TO shop_app;

GRANT SELECT, INSERT, UPDATE ON customers, addresses, orders, order_items, support_tickets TO shop_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO shop_app;
REVOKE SELECT ON users, payroll FROM shop_readonly;
GRANT SELECT (id, login) ON users TO shop_readonly;

-- The search engine follows these tables. ALTER of a publication, not a dump of rows, tells it so.
-- A server without wal_level = logical warns, and creates it all the same.
SET client_min_messages = error;
CREATE PUBLICATION shop_search FOR TABLE products, categories WITH (publish = 'insert, update, delete');
ALTER TABLE categories REPLICA IDENTITY FULL;

RESET client_min_messages;
RESET TIME ZONE;
RESET DateStyle;
