-- TRUNCATE of a table that only on the target is referenced is refused with its name; mended, it goes on
-- [refused by follow: cannot truncate a table referenced in a foreign key constraint]
-- [schema]
create table t(id int primary key);
-- [target]
create table child(id int primary key, t int constraint child_t references t);
-- [changes]
insert into t values (1);
truncate t;
insert into t values (2);
-- [mend]
alter table child drop constraint child_t;
