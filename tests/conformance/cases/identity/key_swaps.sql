-- Keys that swap and shift in one statement and in one transaction
-- [schema]
create table t(id int primary key, v text);
create table d(id int primary key deferrable, v text);
alter table d replica identity full;
create table u(id int primary key, rank int unique);
-- [changes]
insert into t select i, 'v' || i from generate_series(9, 1, -1) i;
update t set id = id + 1;
begin; update t set id = -2 where id = 2; update t set id = 2 where id = 3; update t set id = 3 where id = -2; commit;
begin; delete from t where id = 5; insert into t values (5, 'new'); update t set id = 55 where id = 5; insert into t values (5, 'newer'); commit;
insert into d select i, 'v' || i from generate_series(1, 9) i;
update d set id = 10 - id;
update d set id = id % 9 + 1;
insert into u select i, i from generate_series(1, 9) i;
begin; update u set rank = null where id = 1; update u set rank = 1 where id = 2; update u set rank = 2 where id = 1; commit;
begin; update u set rank = -rank; update u set rank = 10 + rank; commit;
