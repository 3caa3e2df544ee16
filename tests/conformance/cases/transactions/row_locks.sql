-- Two sessions change the same row one after the other, with locks and rollbacks
-- [schema]
create table t(id int primary key, n int);
insert into t values (1, 0), (2, 0);
-- [session a]
begin; select * from t where id = 1 for update; update t set n = n + 1 where id = 1;
-- [session b]
begin; update t set n = n + 10 where id = 2; select * from t where id = 2 for key share;
-- [session a]
rollback;
-- [session b]
update t set n = n + 10 where id = 1; commit;
-- [session a]
begin; delete from t where id = 1; insert into t values (1, 100); commit;
-- [session b]
begin isolation level serializable; update t set n = n + 1; commit;
