-- Types of extensions: hstore, citext, ltree, isn, cube, seg, intarray, in another schema
-- [schema]
create schema ext;
create extension hstore schema ext;
create extension citext schema ext;
create extension ltree schema ext;
create extension isn schema ext;
create extension cube schema ext;
create extension seg schema ext;
create extension intarray schema ext;
set search_path = public, ext;
create table t(c citext primary key, h hstore, l ltree, q lquery, i isbn13, u issn, k cube, s seg, a int[]);
create table whole(c citext, h hstore, k cube, s seg, l ltree);
alter table whole replica identity full;
-- [changes]
set search_path = public, ext;
insert into t values ('Case', 'a=>1, "b c"=>NULL, "q\""=>"\\"', 'Top.Science', '*.Sci*{1,2}', '978-0-11-000222-4', '1436-4522', '(1,2),(3,4)', '1.0 .. 2.00', '{3,1,2}'), ('other', '', '', '*', null, null, '0', '~5', '{}');
update t set c = 'CASE' where c = 'case';
update t set h = h || 'z=>26' where c = 'other';
delete from t where c = 'OTHER';
insert into whole values ('a', 'x=>1', '(1)', '1.0', 'a.b'), ('A', 'x=>1', '(1)', '1.00', 'a.b'), ('A', null, null, null, null);
delete from whole where c::text = 'A' and h is not null;
update whole set k = '(2)' where c::text = 'A';
update whole set l = 'c' where c::text = 'a';
