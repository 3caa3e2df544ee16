-- Operators, types and functions of the target that would be taken for the built-in ones
-- [schema]
create table t(id int primary key, v text);
create table whole(v text, n int);
alter table whole replica identity full;
-- [target]
create schema evil;
create function evil.no(int, int) returns bool language sql as 'select false';
create operator evil.= (leftarg = int, rightarg = int, procedure = evil.no);
create function public.no(text, text) returns bool language sql as 'select false';
create operator public.= (leftarg = text, rightarg = text, procedure = public.no);
create function public.format(text, variadic "any") returns text language internal as 'text_format';
create table public.pg_class(id int primary key);
alter database :"DBNAME" set search_path = evil, public, pg_catalog;
-- [changes]
insert into t values (1, 'a'), (2, 'b');
update t set v = 'c' where id = 1;
delete from t where id = 2;
insert into whole values ('a', 1), ('b', 2);
update whole set n = 5 where v = 'a';
delete from whole where v = 'b';
