-- DDL captured on the source and run on the target at its place between the rows
-- [setup --capture-ddl]
-- [with PGSLUICE_DDL=apply]
-- [schema]
create table t(id int primary key, v text);
-- [changes]
insert into t values (1, 'a');
alter table t add column n int default 7;
insert into t values (2, 'b', 8);
create type mood as enum ('sad', 'happy');
create table made(id int primary key, m mood, "Q q" text);
insert into made values (1, 'sad', 'x');
begin; alter table made rename column "Q q" to q; update made set q = 'y'; alter table made add column later date; insert into made values (2, 'happy', null, '2020-01-01'); commit;
begin; create table never(id int primary key); insert into never values (1); rollback;
drop table t;
