-- Columns dropped and retyped on the source, where the target keeps them or is wider already
-- [schema]
create table t(id int primary key, a text, gone int, n int);
-- [target]
alter table t alter n type bigint;
-- [changes]
insert into t values (1, 'a', 1, 1);
alter table t drop column gone;
insert into t values (2, 'b', 2);
alter table t alter n type bigint;
insert into t values (3, 'c', 8589934592);
update t set n = n + 1;
begin; alter table t alter a set default 'x'; insert into t(id) values (4); alter table t rename constraint t_pkey to t_key; update t set id = 5 where id = 4; commit;
