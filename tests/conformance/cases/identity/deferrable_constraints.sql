-- Deferrable unique, exclusion and foreign keys, broken and mended within a transaction
-- [schema]
create extension btree_gist;
create table t(id int primary key, rank int, constraint t_rank unique (rank) deferrable initially deferred);
create table parent(id int primary key);
create table child(id int primary key, parent int references parent deferrable initially deferred);
create table slots(id int primary key, during int4range, exclude using gist (during with &&) deferrable initially deferred);
-- [changes]
insert into t select i, i from generate_series(1, 9) i;
update t set rank = 10 - rank;
begin; insert into t values (10, 5); update t set rank = 11 where id = 5; commit;
begin; insert into child values (1, 1); insert into parent values (1); commit;
begin; delete from parent; update child set parent = null; commit;
insert into slots values (1, '[1,5)'), (2, '[5,9)');
update slots set during = case id when 1 then int4range(5, 9) else int4range(1, 5) end;
