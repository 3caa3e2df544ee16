-- A check on the target that the source's rows break is refused; dropped, the same command goes on
-- [refused by follow: violates check constraint "small"]
-- [schema]
create table t(id int primary key, v int);
-- [target]
alter table t add constraint small check (v < 10);
-- [changes]
insert into t values (1, 5);
update t set v = 50 where id = 1;
-- [mend]
alter table t drop constraint small;
