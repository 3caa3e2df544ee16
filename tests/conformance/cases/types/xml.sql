-- xml documents and fragments
-- [needs select xml '<a/>']
-- [schema]
create table t(id int primary key, x xml, a xml[]);
create table whole(id int, x xml);
alter table whole replica identity full;
-- [changes]
insert into t values (1, '<a b="c">text &amp; <![CDATA[<raw>]]></a>', array[xml '<x/>', null]), (2, 'just text &lt; ', '{}'), (3, '<a/><b/>', null), (4, '', null);
set xmloption = document;
insert into t values (5, '<?xml version="1.0"?><!DOCTYPE d [<!ELEMENT d ANY>]><d>é</d>', null);
insert into whole values (1, '<a/>'), (1, '<a />'), (2, null);
delete from whole where x::text = '<a />';
update whole set x = ('<b>' || repeat('x', 100) || '</b>')::xml;
