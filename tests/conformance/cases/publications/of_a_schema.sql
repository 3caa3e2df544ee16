-- A publication of a whole schema
-- [only 15+]
-- [setup --publication schema_wide]
-- [schema]
create schema shop;
create table shop.t(id int primary key);
create table other(id int primary key);
-- [source]
create publication schema_wide for tables in schema shop;
-- [changes]
insert into shop.t values (1), (2);
insert into other values (1);
delete from shop.t where id = 1;
-- [compare]
select id from shop.t
