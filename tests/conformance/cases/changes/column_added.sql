-- A column added in the middle of the stream: a stop that names it, and after the DDL on the target the same command goes on
-- [refused by follow: column "b"]
-- [schema]
create table t(id int primary key, a text);
-- [changes]
insert into t values (1, 'a');
alter table t add column b numeric(10, 2);
insert into t values (2, 'b', 1.25);
update t set b = 7 where id = 1;
-- [mend]
alter table t add column b numeric(10, 2);
