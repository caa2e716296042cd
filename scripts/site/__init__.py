"""The documentation site: pages put together, reference pages made from the code, links checked."""
