-- The target's role and database have odd settings, which must not reach the values
-- [target role conformance_odd_target]
-- [schema]
create table t(id int primary key, d date, ts timestamptz, i interval, f float8, b bytea, m money);
-- [target]
create role conformance_odd_target login superuser;
alter role conformance_odd_target set datestyle = 'SQL, DMY';
alter role conformance_odd_target set intervalstyle = 'sql_standard';
alter role conformance_odd_target set timezone = 'Asia/Tokyo';
alter role conformance_odd_target set extra_float_digits = -15;
alter role conformance_odd_target set bytea_output = 'escape';
alter role conformance_odd_target set xmloption = 'document';
alter role conformance_odd_target set standard_conforming_strings = off;
alter role conformance_odd_target set search_path = 'nowhere';
alter role conformance_odd_target set client_encoding = 'LATIN1';
alter role conformance_odd_target set statement_timeout = '20s';
alter role conformance_odd_target set default_transaction_isolation = 'serializable';
alter role conformance_odd_target set transform_null_equals = on;
-- [changes]
insert into t values (1, '2024-02-03', '2024-02-03 04:05:06+00', '1 year -2 days 03:04', 0.30000000000000004, '\x00ff5c', 12.34), (2, null, null, null, null, null, null);
update t set d = '2024-04-03' where id = 1;
update t set b = '\x5c78' where id = 2;
