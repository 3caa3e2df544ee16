-- The replica identity changes between changes, and within a transaction
-- [schema]
create table t(id int primary key, u int not null unique, v text);
-- [changes]
insert into t select i, 100 + i, 'v' from generate_series(1, 12) i;
update t set id = 21 where id = 1;
alter table t replica identity full;
update t set id = 22, v = null where id = 2;
delete from t where id = 3;
alter table t replica identity using index t_u_key;
update t set u = 204 where id = 4;
update t set id = 25 where id = 5;
begin;
update t set v = 'x' where id = 6;
alter table t replica identity full;
update t set v = 'y' where id = 6;
alter table t replica identity default;
update t set id = 27 where id = 7;
commit;
delete from t where id > 8;
