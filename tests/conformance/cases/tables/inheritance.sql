-- Inheritance: changes through the parent reach the children that hold the rows
-- [schema]
create table city(name text primary key, people int);
create table capital(state text, primary key (name)) inherits (city);
create table village() inherits (city);
alter table village add primary key (name);
-- [changes]
insert into city values ('a', 1), ('b', 2);
insert into capital values ('c', 3, 'x'), ('a', 4, 'y');
insert into village values ('v', 5);
update city set people = people + 10;
delete from only city where name = 'a';
update city set name = name || '2' where name in ('c', 'b');
truncate only village;
