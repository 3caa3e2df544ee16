-- setup --keyless full: tables without a key, with a deferrable one, with identity NOTHING
-- [setup --keyless full]
-- [schema]
create table bare(a int, b text);
create table later(id int primary key deferrable initially deferred, v text);
create table nothing(id int primary key, v text);
alter table nothing replica identity nothing;
create table gone(id int not null, v text);
create unique index gone_id on gone(id);
alter table gone replica identity using index gone_id;
drop index gone_id;
create table no_columns();
-- [changes]
insert into bare values (1, 'a'), (1, 'a'), (2, null);
update bare set b = 'c' where ctid = (select max(ctid) from bare where a = 1);
delete from bare where a = 2;
insert into later values (1, 'a'), (2, 'b');
update later set id = 3 - id;
insert into nothing values (1, 'a'), (2, 'b');
update nothing set v = 'z' where id = 1;
delete from nothing where id = 2;
insert into gone values (1, 'a'), (1, 'a'), (2, 'b');
delete from gone where ctid = (select min(ctid) from gone);
update gone set id = 7 where id = 2;
insert into no_columns default values;
insert into no_columns default values;
delete from no_columns where ctid = (select min(ctid) from no_columns);
