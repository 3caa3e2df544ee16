-- Tables of one name in two schemas, moved and swapped by search_path
-- [schema]
create schema a; create schema b;
create table a.t(id int primary key, v text);
create table b.t(v int, id int primary key);
create table t(id int primary key);
-- [changes]
set search_path = b, a; insert into t values (1, 2);
set search_path = a; insert into t values (1, 'x'); update t set id = 5;
insert into public.t values (9);
delete from b.t;
insert into b.t values (3, 4);
