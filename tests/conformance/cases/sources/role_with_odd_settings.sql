-- The source's role and database have odd settings: DateStyle, IntervalStyle, TimeZone, bytea_output, floats, search_path
-- [source role conformance_odd]
-- [schema]
create type mood as enum ('sad', 'happy');
create table t(id int primary key, d date, ts timestamptz, tm timestamp, i interval, f float8, b bytea, bs bytea[], m money, r tstzrange, c regclass, e mood);
create table whole(ts timestamptz, i interval, b bytea);
alter table whole replica identity full;
-- [source]
create role conformance_odd login superuser;
alter role conformance_odd set datestyle = 'German, DMY';
alter role conformance_odd set intervalstyle = 'iso_8601';
alter role conformance_odd set timezone = 'Asia/Tokyo';
alter role conformance_odd set extra_float_digits = -15;
alter role conformance_odd set bytea_output = 'escape';
alter role conformance_odd set client_encoding = 'LATIN1';
alter role conformance_odd set search_path = 'nowhere';
alter role conformance_odd set standard_conforming_strings = off;
alter role conformance_odd set xmlbinary = 'hex';
alter role conformance_odd set quote_all_identifiers = on;
alter role conformance_odd set statement_timeout = '30s';
alter role conformance_odd set idle_in_transaction_session_timeout = '10s';
-- [changes]
insert into t values (1, '2024-02-03', '2024-02-03 04:05:06.7+00', '2024-04-03', '1 year 2 mons -3 days 04:05:06', 0.30000000000000004, '\x00ff5c41', '{"\\x00","\\x5c"}', 12.34, '[2024-02-03 00:00+00,)', 't', 'sad');
insert into t(id, d, i) values (2, 'infinity', '-1 day'), (3, '0044-03-15 BC', 'P1Y');
insert into whole select ts, i, b from t;
insert into whole select ts, i, b from t;
delete from whole where ctid = (select min(ctid) from whole);
update whole set b = '\x01' where ts is null;
update t set d = d + 30 where id = 1;
