-- One row inserted, updated, moved, deleted and inserted again in one transaction
-- [schema]
create table t(id int primary key, a text, b text);
-- [changes]
begin;
insert into t values (1, 'a', null);
update t set a = 'b'; update t set b = 'c'; update t set id = 2; delete from t;
insert into t values (2, 'x', 'y'); update t set id = 1; update t set id = 3, a = null; insert into t values (1, 'z', 'z');
commit;
begin; delete from t where id = 1; insert into t values (1, 'q', 'q'); commit;
begin; delete from t; insert into t values (1, 'q', 'q'); delete from t; commit;
