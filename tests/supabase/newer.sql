SET ROLE supabase_auth_admin;
ALTER TABLE auth.users ADD is_sso_user boolean NOT NULL DEFAULT false,
  ADD deleted_at timestamptz, ADD is_anonymous boolean NOT NULL DEFAULT false;
ALTER TABLE auth.sessions ADD factor_id uuid, ADD refreshed_at timestamp, ADD user_agent text, ADD ip inet;
ALTER TABLE auth.mfa_factors ADD last_challenged_at timestamptz;
CREATE TABLE auth.oauth_clients (id uuid PRIMARY KEY, client_name text);
INSERT INTO auth.schema_migrations VALUES ('20240427152123'), ('20251111201300');
RESET ROLE;
SET ROLE supabase_storage_admin;
CREATE TYPE storage.buckettype AS ENUM ('STANDARD', 'ANALYTICS', 'VECTOR');
ALTER TABLE storage.buckets ADD type storage.buckettype NOT NULL DEFAULT 'STANDARD';
CREATE FUNCTION storage.protect_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF COALESCE(current_setting('storage.allow_delete_query', true), 'false') <> 'true' THEN
    RAISE EXCEPTION 'Direct deletion from storage tables is not allowed. Use the Storage API instead.'
      USING ERRCODE = '42501';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER protect_objects_delete BEFORE DELETE ON storage.objects
  FOR EACH STATEMENT EXECUTE FUNCTION storage.protect_delete();
CREATE TRIGGER protect_buckets_delete BEFORE DELETE ON storage.buckets
  FOR EACH STATEMENT EXECUTE FUNCTION storage.protect_delete();
INSERT INTO storage.migrations VALUES (0, 'create-migrations-table', ''), (25, 'custom-metadata', ''),
  (55, 'prevent-direct-deletes', '');
RESET ROLE;
