-- What logical decoding never sends: large objects, sequences, grants, comments; rows between them arrive
-- [schema]
create table t(id int primary key, blob oid);
create sequence s;
-- [changes]
insert into t values (1, lo_from_bytea(0, '\xdeadbeef'));
select nextval('s') from generate_series(1, 10);
comment on table t is 'commented';
grant select on t to public;
insert into t values (2, null);
select lo_unlink(blob) from t where id = 1;
notify channel, 'payload';
begin; lock table t; commit;
insert into t values (3, null);
