-- A source in LATIN1, a target in UTF8
-- [source encoding LATIN1]
-- [schema]
create type mood as enum ('sad', 'happy');
create table t(id text primary key, v varchar(10), c char(5), j json, a text[]);
create table whole(v text);
alter table whole replica identity full;
-- [changes]
insert into t values ('é', 'ÄÖÜß', 'ñ', '{"ü": "ÿ"}', '{é,"à b"}'), ('plain', 'x', 'y', null, null);
insert into t select 'all', null, null, null, array_agg(chr(i)) from generate_series(160, 255) i;
update t set v = '¿qué?' where id = 'é';
update t set id = 'è' where id = 'é';
insert into whole values ('é'), ('è'), ('e');
delete from whole where v = 'è';
update whole set v = '£' where v = 'é';
