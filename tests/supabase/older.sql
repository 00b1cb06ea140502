INSERT INTO auth.schema_migrations VALUES ('20240427152123');
INSERT INTO storage.migrations VALUES (0, 'create-migrations-table', ''), (25, 'custom-metadata', '');
