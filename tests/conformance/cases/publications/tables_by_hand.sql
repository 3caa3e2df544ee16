-- A publication made by hand says which tables are meant
-- [setup --publication by_hand]
-- [schema]
create table a(id int primary key);
create table b(id int primary key);
create table c(id int);
-- [source]
create publication by_hand for table a, b;
-- [changes]
insert into a values (1); insert into b values (1); insert into c values (1);
update c set id = 2; delete from a; insert into a values (2);
-- [compare]
select (select string_agg(id::text, ',') from a), (select string_agg(id::text, ',') from b)
