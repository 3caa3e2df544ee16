-- Collations under which different texts are equal
-- [schema]
create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create table t(k text collate loose primary key, v text);
create table whole(k text collate loose, v int);
alter table whole replica identity full;
-- [changes]
insert into t values ('Straße', 'a'), ('other', 'b');
update t set v = 'c' where k = 'STRASSE' or k = 'straße';
update t set k = 'OTHER' where k = 'other';
delete from t where k = 'STRAßE';
insert into whole values ('a', 1), ('A', 1), ('a', 2);
delete from whole where k collate "C" = 'A';
update whole set v = 3 where v = 1;
