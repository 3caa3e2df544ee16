-- Domains over everything, and over domains, with checks and defaults
-- [schema]
create type pair as (a int, b text);
create type mood as enum ('sad', 'happy');
create domain natural_number as int check (value >= 0);
create domain small_number as natural_number check (value < 100);
create domain word as text not null default 'x';
create domain pairs as pair check ((value).a > 0);
create domain moody as mood;
create domain ints as int[] check (array_length(value, 1) < 5);
create domain span as int4range;
create domain big as numeric(20, 5);
create domain code as char(4);
create table t(id small_number primary key, w word, p pairs, m moody, i ints, s span, b big, c code, l small_number[], j pairs[]);
create table whole(n small_number, c code, b big, p pairs);
alter table whole replica identity full;
-- [changes]
insert into t values (1, '', '(1,x)', 'sad', '{1,2}', '[1,5)', 1.5, 'ab', '{1,2,NULL}', '{"(1,y)"}'), (2, default, null, null, null, null, null, null, null, null);
update t set id = 3, i = i || 3, p.b = 'z' where id = 1;
insert into whole values (1, 'a', 1.5, '(1,x)'), (1, 'a', 1.5, '(1,y)'), (2, null, null, null);
delete from whole where (p).b = 'y';
update whole set b = 2 where n = 2;
