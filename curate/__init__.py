"""From a pool of pictures to a manifest: pool -> scores -> reference -> classifier -> annotate -> manifest -> query."""
