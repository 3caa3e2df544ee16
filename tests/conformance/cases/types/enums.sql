-- Enums: odd labels, as key, in arrays, ranges and composites; a label added while changes flow
-- [schema]
create type mood as enum ('sad', 'happy', 'it''s "so"', 'a,b', 'ÄÖ', '');
create type moods as range (subtype = mood);
create table t(m mood primary key, l mood[], r moods);
create table whole(m mood, n int);
alter table whole replica identity full;
-- [target]
alter type mood add value 'new';
-- [changes]
insert into t select m, array[m, null], moods('sad', 'a,b', '[]') from unnest(enum_range(null::mood)) m;
insert into whole select m, 1 from unnest(enum_range(null::mood)) m;
update t set l = '{}' where m = '';
delete from whole where m = 'a,b';
update whole set n = 2 where m = 'ÄÖ';
alter type mood add value 'new';
insert into t values ('new', '{new}', null);
update t set m = 'new' where false;
