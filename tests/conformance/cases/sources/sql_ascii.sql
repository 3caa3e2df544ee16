-- Source and target in SQL_ASCII: bytes that are no text in any encoding
-- [encoding SQL_ASCII]
-- [schema]
create table t(id text primary key, v text);
create table whole(v text);
alter table whole replica identity full;
-- [changes]
insert into t values (E'\377\376', E'\200\201'), ('plain', 'é'), (E'half \303', '');
update t set v = E'\351t\351' where id = E'\377\376';
update t set id = E'\376\377' where id = E'\377\376';
insert into whole values (E'\377'), (E'\376'), ('ok');
delete from whole where v = E'\376';
update whole set v = v || E'\200';
