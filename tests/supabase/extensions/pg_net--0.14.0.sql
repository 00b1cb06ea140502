CREATE SCHEMA net;
CREATE TABLE net.http_request_queue (id bigserial PRIMARY KEY, method text NOT NULL, url text NOT NULL);
CREATE FUNCTION net.http_post(url text, body jsonb DEFAULT '{}') RETURNS bigint LANGUAGE sql
SECURITY DEFINER AS $$ INSERT INTO net.http_request_queue (method, url) VALUES ('POST', url) RETURNING id $$;
GRANT USAGE ON SCHEMA net TO PUBLIC;
