-- A secret is sealed with the project's root key, its own id and a nonce: rows copied elsewhere,
-- or given another id, do not open. (The real one uses libsodium.)
CREATE TABLE vault.root_key (key bytea NOT NULL);
INSERT INTO vault.root_key SELECT sha256(gen_random_uuid()::text::bytea);
REVOKE ALL ON vault.root_key FROM PUBLIC;
CREATE TABLE vault.secrets (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, description text NOT NULL DEFAULT '',
  secret text NOT NULL, key_id uuid, nonce bytea NOT NULL DEFAULT sha256(gen_random_uuid()::text::bytea),
  created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE UNIQUE INDEX secrets_name_idx ON vault.secrets (name) WHERE name IS NOT NULL;
CREATE FUNCTION vault._pad(id uuid, nonce bytea, size int) RETURNS bytea LANGUAGE plpgsql
SECURITY DEFINER SET search_path = '' AS $$
DECLARE pad bytea := ''; n int := 0; root bytea := (SELECT key FROM vault.root_key);
BEGIN
  WHILE pg_catalog.length(pad) < size LOOP
    pad := pad || pg_catalog.sha256(root || nonce || (id::text || n::text)::bytea); n := n + 1;
  END LOOP;
  RETURN pad;
END $$;
CREATE FUNCTION vault._xor(a bytea, b bytea) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  FOR i IN 0 .. pg_catalog.length(a) - 1 LOOP
    a := pg_catalog.set_byte(a, i, pg_catalog.get_byte(a, i) # pg_catalog.get_byte(b, i));
  END LOOP;
  RETURN a;
END $$;
CREATE FUNCTION vault._seal(t text, id uuid, nonce bytea) RETURNS text LANGUAGE plpgsql AS $$
DECLARE plain bytea := pg_catalog.sha256(pg_catalog.convert_to(t, 'UTF8')) || pg_catalog.convert_to(t, 'UTF8');
BEGIN
  RETURN pg_catalog.encode(vault._xor(plain, vault._pad(id, nonce, pg_catalog.length(plain))), 'base64');
END $$;
CREATE FUNCTION vault._open(t text, id uuid, nonce bytea) RETURNS text LANGUAGE plpgsql AS $$
DECLARE sealed bytea := pg_catalog.decode(t, 'base64'); plain bytea;
BEGIN
  plain := vault._xor(sealed, vault._pad(id, nonce, pg_catalog.length(sealed)));
  IF pg_catalog.substr(plain, 1, 32) <> pg_catalog.sha256(pg_catalog.substr(plain, 33)) THEN
    RAISE EXCEPTION 'pgsodium_crypto_aead_det_decrypt_by_id: invalid ciphertext' USING ERRCODE = '22000';
  END IF;
  RETURN pg_catalog.convert_from(pg_catalog.substr(plain, 33), 'UTF8');
END $$;
CREATE VIEW vault.decrypted_secrets AS
  SELECT id, name, description, secret, vault._open(secret, id, nonce) AS decrypted_secret, key_id,
         nonce, created_at, updated_at FROM vault.secrets;
CREATE FUNCTION vault.create_secret(new_secret text, new_name text DEFAULT NULL,
  new_description text DEFAULT '', new_key_id uuid DEFAULT NULL) RETURNS uuid LANGUAGE plpgsql
SECURITY DEFINER SET search_path = '' AS $$
DECLARE
  new_id uuid := pg_catalog.gen_random_uuid();
  salt bytea := pg_catalog.sha256(pg_catalog.gen_random_uuid()::text::bytea);
BEGIN
  INSERT INTO vault.secrets (id, secret, name, description, nonce)
  VALUES (new_id, vault._seal(new_secret, new_id, salt), new_name, new_description, salt);
  RETURN new_id;
END $$;
GRANT USAGE ON SCHEMA vault TO postgres, service_role;
GRANT SELECT, DELETE, TRUNCATE, REFERENCES ON vault.secrets, vault.decrypted_secrets TO postgres WITH GRANT OPTION;
REVOKE ALL ON FUNCTION vault.create_secret(text, text, text, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.create_secret(text, text, text, uuid) TO postgres WITH GRANT OPTION;
SELECT pg_catalog.pg_extension_config_dump('vault.secrets', '');
