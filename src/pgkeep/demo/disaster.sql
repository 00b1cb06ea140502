-- What somebody did to the shop at 03:12, in the wrong window, with the right intentions.

SET client_min_messages = warning;

-- 03:12:04. "Only the test product." The WHERE was in the next line, after the semicolon.
UPDATE products SET price = 0;

-- 03:12:31. Meant to remove the test orders: every third number, as on the test system.
DELETE FROM order_items WHERE order_id % 3 = 0;

-- 03:12:58. The script for the test system starts from scratch. CASCADE was in the error's hint;
-- the foreign keys and views that depend on the table go with it, without a word.
DROP TABLE customers CASCADE;

-- 03:13:10. The log showed an embarrassing number of zeros.
TRUNCATE audit_log RESTART IDENTITY;

-- 03:13:22. A large object that no table seemed to need any more.
SELECT lo_unlink(4711002);

-- 03:13:40. "Does anyone still use this schema?" Nobody answered at that hour.
DROP SCHEMA warehouse CASCADE;

-- 03:14:02. The clean-up job, with a date from the wrong century. It worked.
DELETE FROM page_views WHERE viewed_at < '2204-05-01 00:00+00';

RESET client_min_messages;
