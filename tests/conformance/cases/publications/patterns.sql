-- setup --tables and --exclude with names that need quotes
-- [setup --tables public.* "Odd.Schema".* --exclude public.log_*]
-- [schema]
create schema "Odd.Schema";
create table "Odd.Schema"."T"(id int primary key);
create table t(id int primary key);
create table log_a(id int);
create schema other;
create table other.t(id int primary key);
-- [changes]
insert into t values (1); insert into "Odd.Schema"."T" values (1), (2); insert into log_a values (1); update log_a set id = 2; insert into other.t values (1);
delete from "Odd.Schema"."T" where id = 2;
-- [compare]
select (select string_agg(id::text, ',') from t), (select string_agg(id::text, ',') from "Odd.Schema"."T")
