-- uuid, pg_lsn, txid_snapshot, reg* types, json paths
-- [schema]
create table "Some"(id int primary key);
create table t(id uuid primary key, l pg_lsn, s txid_snapshot, n pg_snapshot, c regclass, ty regtype, r regrole, ns regnamespace, p jsonpath, x xid8);
-- [changes]
insert into t values ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '16/B374D848', '10:20:10,14,15', '10:20:', 'pg_class', 'integer[]', 'postgres', 'public', '$.a[*] ? (@ > 1)', '18446744073709551615'),
    ('00000000-0000-0000-0000-000000000000', '0/0', null, null, '"Some"', 'timestamp with time zone', 'pg_monitor', 'pg_catalog', 'strict $."x y"', '0'),
    ('ffffffff-ffff-ffff-ffff-ffffffffffff', 'FFFFFFFF/FFFFFFFF', null, null, null, null, null, null, null, null);
update t set l = l - 1 where l > '0/0';
update t set id = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12' where id = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11';
