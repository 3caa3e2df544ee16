-- Transactions that interleave arrive in the order of their commits
-- [schema]
create table t(id int primary key, who text, n int);
create table log(n int, who text);
alter table log replica identity full;
-- [session a]
begin; insert into t values (1, 'a', 1); insert into log values (1, 'a');
-- [session b]
begin; insert into t values (2, 'b', 1); insert into log values (1, 'b');
-- [session c]
insert into t values (3, 'c', 1); update t set n = 2 where id = 3;
-- [session a]
update t set n = 2 where id = 1; savepoint s; update t set n = 3 where id = 3; rollback to s;
-- [session b]
update t set n = 7 where id = 3; commit;
-- [session a]
insert into log select n, who from t; commit;
-- [session b]
update t set who = 'z'; update log set who = who || n;
