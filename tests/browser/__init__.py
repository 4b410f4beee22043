"""A package, because its tests share what a study is made of and how a page is watched."""
